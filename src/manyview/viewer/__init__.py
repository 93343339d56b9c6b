"""A scene in the browser (`pip install 'manyview[view]'`): app.py draws, panels.py holds what can be clicked."""
