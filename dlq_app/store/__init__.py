"""Dead letters, groups and batches in MongoDB. The only package that imports the driver."""
