"""Everything that changes practice: assignments and what is launched for them, episodes and rounds, publication.

Only here are rows of both the fleet and of learning written. Every function is keyword-only and named verb_noun; what
users may cause is Refused with a sentence.
"""
