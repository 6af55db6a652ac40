"""The face that fedjob shows in IPython and Jupyter, with nothing but what these bring."""
