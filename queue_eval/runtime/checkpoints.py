from pathlib import Path
import shutil
def campaign_folder(base, campaign, uid): return Path(base) / f"{campaign}-{uid}"
def job_folder(base, campaign, uid, job): return campaign_folder(base, campaign, uid) / str(job)
def newest(folder): return None
def remove_job(folder): shutil.rmtree(folder, ignore_errors=True)
