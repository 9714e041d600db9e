import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # tests are no package; bad_catalogs is beside this file
