"""The models of the experiments, by name, and their files."""

from .cifar_resnet import resnet18
from .foreign import load_weights
from .initialisation import initialise
from .registry import MODELS, create_model, load_model, save_model
from .resnet9 import ResNet9
from .small_cnn import SmallCNN
from .splits import last_modules
from .wide_resnet import WideResNet

__all__ = [
    "MODELS",
    "ResNet9",
    "SmallCNN",
    "WideResNet",
    "create_model",
    "initialise",
    "last_modules",
    "load_model",
    "load_weights",
    "resnet18",
    "save_model",
]
