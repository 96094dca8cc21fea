"""Training: ``config`` says what, ``batches`` feed, ``loop`` trains, ``state`` keeps, ``validation`` watches."""
