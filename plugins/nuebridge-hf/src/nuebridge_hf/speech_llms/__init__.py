"""Published speech-language models as integrations: their own encoder, bridge and decoder, with their own weights."""
