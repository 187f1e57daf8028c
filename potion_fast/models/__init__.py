"""The models of the experiments, by name, and their files."""

from .registry import MODELS, create_model, load_model, save_model
from .resnet9 import ResNet9
from .small_cnn import SmallCNN

__all__ = ["MODELS", "ResNet9", "SmallCNN", "create_model", "load_model", "save_model"]
