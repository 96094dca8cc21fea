"""data2vec for audio: wav2vec 2.0's shape with a stack of positional convolutions."""

from __future__ import annotations

from torch import nn
from transformers import Data2VecAudioModel

from nuebridge_hf.wav2vec_family import Wav2VecFamilyEncoder


class Data2VecAudioEncoder(Wav2VecFamilyEncoder):
    """data2vec (Baevski et al., arXiv 2202.03555).

    Each of its positional convolutions adds a bias to what is padding, which the next would read.
    """

    model_class = Data2VecAudioModel
    model_type = "data2vec-audio"

    def lifting_padding(self) -> list[nn.Module]:
        return list(self.stack.pos_conv_embed.layers)
