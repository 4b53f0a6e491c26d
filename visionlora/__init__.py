"""Fine-tune any timm or torchvision image classifier with LoRA, conv and linear layers alike.

The public names are those of ``__init__.pyi``. They are loaded when first used: the commands import this package before they know whether
torch is needed at all.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
