"""The bench: attacks, trainings, unlearners, scores, sweeps and reports; needs the extra `bench`.

The library never imports it.
"""
