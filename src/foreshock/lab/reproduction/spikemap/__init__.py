"""A map of where v is to blame: small trainings over kind of network, batch, β₂, decay and rate."""
