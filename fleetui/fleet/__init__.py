"""The fleet: labs, the stations they own, the tasks stations practise, the episodes they send and the touches they need."""
