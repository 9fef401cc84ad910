import time, urllib.request, pathlib
from geomae.tracking import *
for _ in range(120):
    try: urllib.request.urlopen("http://127.0.0.1:5977/health"); break
    except OSError: time.sleep(.5)
m=pathlib.Path("model"); m.mkdir(exist_ok=True); (m/"w.bin").write_bytes(b"1"*5_000_000)
u="http://127.0.0.1:5977"
t=time.time()
tr=start_run(u,"e","r",params={"a":"b"},datasets=[DatasetRecord("d","1","/x",bands=("blue",))],warn=print)
tr.log_metrics({"l":1.,"n":float("nan"),"i":float("inf")},0); tr.log_artifacts(m,"model"); tr.register_model("M"); tr.finish(); print(tr.run_id,time.time()-t)
for r in ("models:/M/1","mlflow:"+tr.run_id): p=download(r,u); print(p,[f.stat().st_size for f in p.iterdir()])
try: download("models:/M/7",u)
except Exception as e: print(type(e),e)
