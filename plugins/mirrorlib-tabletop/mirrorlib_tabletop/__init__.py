"""A MuJoCo tabletop in RLBench's manner: a Panda, six tasks, four RGB-D cameras."""
