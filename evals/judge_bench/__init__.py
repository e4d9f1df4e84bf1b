"""What the judge's verdicts are worth and what they cost, beside the reference harnesses."""
