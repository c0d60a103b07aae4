"""Hard negatives: chosen once by `cse mine`, or repeatedly during training by `RefreshNegatives`."""
