"""Training: ``config`` says what, ``trainable`` which weights; ``batches`` feed, ``loop`` trains in ``ranks``,
``state`` keeps and ``validation`` watches."""
