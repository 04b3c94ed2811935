"""The methods by which a policy is learned: one file each. registry.py says what all may know of them."""
