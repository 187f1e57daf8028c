"""Success of an attack where no triggered test data are known."""

from .result import AttackEstimate, AttackSuccess
from .simulated_attack import SimulatedAttack, simulate_attack, simulated_attack

__all__ = ["AttackEstimate", "AttackSuccess", "SimulatedAttack", "simulate_attack", "simulated_attack"]
