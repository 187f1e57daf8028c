"""Models by name, and their files."""

from ...user.pretrained import load_weights
from .cifar_resnet import resnet18
from .gpt2 import gpt2_causal, gpt2_classifier
from .hugging_face import width_of
from .initialisation import initialise
from .language import LanguageModel, head_of
from .last_layers import last_modules
from .registry import MODELS, create_model, load_model, save_model
from .resnet9 import ResNet9
from .small_cnn import SmallCNN
from .vit import vit
from .wide_resnet import WideResNet

__all__ = [
    "MODELS",
    "LanguageModel",
    "ResNet9",
    "SmallCNN",
    "WideResNet",
    "create_model",
    "gpt2_causal",
    "gpt2_classifier",
    "head_of",
    "initialise",
    "last_modules",
    "load_model",
    "load_weights",
    "resnet18",
    "save_model",
    "vit",
    "width_of",
]
