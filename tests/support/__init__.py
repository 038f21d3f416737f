"""What the tests share. Whoever runs them may have a server of their own: all that is started here goes to the tests' alone."""

import os

for _name in [name for name in os.environ if name.startswith("PG")]:
    del os.environ[_name]
