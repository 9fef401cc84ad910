"""Training on Lightning Fabric: one visible loop, and around it what each step needs."""
