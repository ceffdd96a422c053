"""A module whose import takes as long as PANOSEG_SLOW_S says: for tests of what happens
meanwhile.
"""

import os
import time

time.sleep(float(os.environ["PANOSEG_SLOW_S"]))
