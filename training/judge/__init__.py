"""What a policy and a critic are worth, as figures and pages."""
