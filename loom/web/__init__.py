"""The face for browsers: pages that show what agents do and answer what they ask.

Routes, templates and what they load; it asks the graph's front and the rooms below it, as the command line does. Every
page works without JavaScript; with it a page follows what happens.
"""
