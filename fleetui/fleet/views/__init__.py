"""The fleet's pages: the wall, a station, episodes and their replay, tasks.

The first paint comes from the database; what moves comes over the live socket. Objects are fetched
through access.py alone, rows are changed by actions/ alone.
"""
