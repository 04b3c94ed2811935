"""The fleet: labs, their stations, the tasks stations practise, the episodes they send and the touches they need."""
