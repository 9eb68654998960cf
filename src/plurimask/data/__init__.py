"""Images, truth and results: files, folders, made-up images, crops for training."""
