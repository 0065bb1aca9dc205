"""The models of a table. Each learns from a Lesson and scores all items for a Question."""
