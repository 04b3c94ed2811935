"""Practice: what needs both the fleet and learning. The queue of assignments and its dispatcher, the runs that practise
on stations, the episodes and rounds that come of it, and the policies that go back to the stations.
"""
