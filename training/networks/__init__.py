"""What perceives, reads the words, acts and judges. network.py puts the parts together, by what a body observes."""
