"""Speech encoders of the fairseq2 library, for nuebridge."""
