"""Speech encoders and language models of the transformers library, as parts of nuebridge."""
