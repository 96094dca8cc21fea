"""Adapting an integration to a new domain: a small adapter, and what it costs the old domain.

    settings     what may be asked for
    output       the folder that an adaptation writes, and what may be in it already
    data         the parts of the new data, what they share with the test data, how long they are
    plan         the training configuration that all this comes to
    measuring    texts of the test data before and after
    fillers      words of the new domain that have no place in the old one
    results      the table that an adaptation ends with
    extraction   what a run changed, as an adapter of its base
    adapting     all of it in order

Training itself is :mod:`nuebridge.train`'s; there is no other loop.
"""
