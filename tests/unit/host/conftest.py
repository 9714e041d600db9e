import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # tests are no package; host_probing is beside this file
