"""Hard negatives: chosen once by `cse mine`, or anew while training by `RefreshNegatives`."""
