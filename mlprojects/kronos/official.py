"""The official weights on the Hub: repositories, pairs, commits, digests of files."""

from collections.abc import Mapping
from pathlib import Path

from mlprojects.kronos.shapes import (
    CONFIG,
    PREDICTOR,
    TOKENIZER,
    WEIGHTS,
    PredictorConfig,
    official_size,
)
from mlprojects.kronos.specs import COLUMNS as COLUMNS
from registry.forecast.forecast import Forecaster

NAME = FAMILY = "kronos"
MODEL_ID = "NeoQuasar/Kronos-mini"  # mirrored by default
PARTS = (PREDICTOR, TOKENIZER)  # folders of a version's model, each in the official layout

# The tokenizer that each predictor was trained with.
TOKENIZERS: Mapping[str, str] = {
    "NeoQuasar/Kronos-mini": "NeoQuasar/Kronos-Tokenizer-2k",
    "NeoQuasar/Kronos-small": "NeoQuasar/Kronos-Tokenizer-base",
    "NeoQuasar/Kronos-base": "NeoQuasar/Kronos-Tokenizer-base",
}
# Last date of the training data, by sha256 of the released weights; the paper (arXiv 2508.02739)
# says June 2024. A copy under another name or commit has seen the same.
PRETRAINED_UNTIL: Mapping[str, str] = {
    "a7d5f37e2e9fbd9891f7d7d4f72574512dd1f704fee14223e0a8cd0fbf54197c": "2024-06-30",  # mini
    "b082dfcbd8e8c142a725c8bbb99781802f38fec81210e13479effb32b3c3e020": "2024-06-30",  # small
    "abff193acab6db1a0368e9773e75799d11403b6d054ee6d5f0a11aeabc5f4b83": "2024-06-30",  # base
}
# sha256 of released files by commit, as recorded by several third parties. Configs of ours have the
# same bytes. The repository's name is no key.
PINNED: Mapping[str, Mapping[str, str]] = {
    "f4e68697d9d5aed55cef5c96aabc3376bcad9f81": {  # NeoQuasar/Kronos-mini
        CONFIG: "70daca2cb11e3a979dd6b8ac12ee08e2aace877acf28f5b8dfb4fe5609736201",
        WEIGHTS: "a7d5f37e2e9fbd9891f7d7d4f72574512dd1f704fee14223e0a8cd0fbf54197c",
    },
    "901c26c1332695a2a8f243eb2f37243a37bea320": {  # NeoQuasar/Kronos-small
        CONFIG: "5e0f6a605d5f81b5c9b559fe5cf716a1acb041c744e6f41bd05b097b7a685396",
        WEIGHTS: "b082dfcbd8e8c142a725c8bbb99781802f38fec81210e13479effb32b3c3e020",
    },
    "2b554741eca47781b64468546e77fef3e85130e6": {  # NeoQuasar/Kronos-base
        CONFIG: "77ebc3038b647709b92be002f801d72e1a385f4c8c2c5aa1cc6cf21fcfe44eb2",
        WEIGHTS: "abff193acab6db1a0368e9773e75799d11403b6d054ee6d5f0a11aeabc5f4b83",
    },
    "26966d0035065a0cae0ebad7af8ece35bc1fb51c": {  # NeoQuasar/Kronos-Tokenizer-2k
        CONFIG: "0b30a443affb03e05a876a083857de9164f899feb7b4d261da02c485c9a3e3b6",
        WEIGHTS: "b97ec46b3b72160509e289183eaf7bdf5f0dac5bb9b49522f6d46638a99a8717",
    },
    "0e0117387f39004a9016484a186a908917e22426": {  # NeoQuasar/Kronos-Tokenizer-base
        CONFIG: "2366e7ccfec76cbc19cf3c4c1b9c5d901be336ca1e83f2d2292c9bff381b77a2",
        WEIGHTS: "59d85f6af76a2c3b8240ea06cb21db4213b4eeca053f246b23e29cf832fc6bee",
    },
}


def forecaster(weights: Path, tokenizer: Path, *, max_context: int, clip: float) -> Forecaster:
    """Official folders as a model.

    Raises NotFound, Corrupt or BadConfig; BadConfig also if the two do not belong together.
    """
    from mlprojects.kronos.model import from_official  # torch takes seconds to import

    return from_official(weights, tokenizer, name=NAME, max_context=max_context, clip=clip)


def size(config: Path) -> str | None:
    """mini, small or base from a config.json; None for another shape."""
    return official_size(PredictorConfig.read(config))
