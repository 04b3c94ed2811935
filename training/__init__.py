"""The method: demonstrations in, a policy and a reward model out, and a policy that practises until it is good."""
