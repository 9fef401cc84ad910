"""Training on Lightning Fabric: one visible loop, and the parts that each step uses."""
