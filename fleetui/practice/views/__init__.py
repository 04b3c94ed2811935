"""The pages that show the fleet and its learning together: the wall, the tasks and their queue, the runs."""
