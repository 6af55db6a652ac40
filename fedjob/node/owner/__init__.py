"""The owner's acts and views: one function for each thing that a command and the owner's page both do or show."""
