"""What has to exist before training starts: a backbone, training pairs, and a demo corpus.

``python -m m3_training.prepare --help`` lists the commands. Everything is made from public packages (Maven
Central, Debian) and from the question files in a data folder; nothing is fetched at import.
"""
