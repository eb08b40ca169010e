"""The losses by name."""

from self_rewarding_lm_pytorch.losses.base import PreferenceLoss
from self_rewarding_lm_pytorch.registry import Registry

_HERE = "self_rewarding_lm_pytorch.losses"

PREFERENCE_LOSSES: Registry[PreferenceLoss] = Registry(
    "preference loss",
    {
        "dpo": f"{_HERE}.preference:DPO",
        "ipo": f"{_HERE}.preference:IPO",
        "hinge": f"{_HERE}.preference:HINGE",
        "spin": f"{_HERE}.preference:SPIN",
        "discopop": f"{_HERE}.preference:DISCOPOP",
        "conservative": f"{_HERE}.noisy:CONSERVATIVE",
        "robust": f"{_HERE}.noisy:ROBUST",
        "exo_pair": f"{_HERE}.noisy:EXO_PAIR",
        "nca_pair": f"{_HERE}.absolute:NCA_PAIR",
        "bco_pair": f"{_HERE}.absolute:BCO_PAIR",
        "sppo_hard": f"{_HERE}.absolute:SPPO_HARD",
        "apo_zero": f"{_HERE}.absolute:APO_ZERO",
        "apo_down": f"{_HERE}.absolute:APO_DOWN",
        "aot": f"{_HERE}.transport:AOT",
        "aot_unpaired": f"{_HERE}.transport:AOT_UNPAIRED",
        "sigmoid_norm": f"{_HERE}.averaged:SIGMOID_NORM",
        "ipo_norm": f"{_HERE}.averaged:IPO_NORM",
        "simpo": f"{_HERE}.averaged:SIMPO",
        "orpo": f"{_HERE}.likelihood:ORPO",
        "nll": f"{_HERE}.likelihood:NLL",
        "sft": f"{_HERE}.likelihood:NLL",
        "odpo": f"{_HERE}.margins:ODPO",
    },
)
