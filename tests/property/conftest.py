import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # tests are no package; simulate is beside this file
