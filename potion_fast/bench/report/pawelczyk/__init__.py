"""Tables and figures of the paper of Pawelczyk et al., *Machine Unlearning Fails to Remove Data Poisoning Attacks*."""
