"""Whatever can happen to a fleet and to its collectors, at random, and whether gpuid knows the truth afterwards."""
