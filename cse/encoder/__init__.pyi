"""The names that the package exports: the one list, which type checkers and `cse.errors.on_demand` read."""

from cse.encoder.adapters import Adapter as Adapter
from cse.encoder.adapters.lora import Lora as Lora
from cse.encoder.adapters.soft_prompts import SoftPrompts as SoftPrompts
from cse.encoder.dropout import Dropout as Dropout
from cse.encoder.model import Encoder as Encoder
