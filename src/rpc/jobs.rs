//! `JobService`.

use tonic::{Request, Response, Status};

use super::Api;
use super::auth::caller;
use super::convert;
use super::pb;
use super::pb::job_service_server::JobService;
use super::stream::{Ending, ResponseSender, ResponseStream, driven};
use crate::service::{JobId, JobSnapshot, ServiceError, Watcher};

#[tonic::async_trait]
impl JobService for Api {
    type WatchJobStream = ResponseStream<pb::WatchJobResponse>;

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let caller = caller(request.extensions());
        let pb::ListJobsRequest { page_size, page_token } = request.into_inner();
        let after = convert::page_token::<JobId>(&page_token)?;
        let seen = self.service.jobs_of(&caller).into_iter();
        let (jobs, next) = convert::page(
            seen.skip_while(|job| after.as_ref().is_some_and(|last| job.id >= *last)),
            page_size,
            |job| job.id.to_string(),
        );
        let jobs = jobs.into_iter().map(|job| convert::job(job, convert::Report::Without)).collect();
        Ok(Response::new(pb::ListJobsResponse { jobs, next_page_token: next }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::GetJobResponse>, Status> {
        let caller = caller(request.extensions());
        let id = convert::job_id(&request.into_inner().id)?;
        let snapshot = self.service.job(&caller, &id)?;
        Ok(Response::new(pb::GetJobResponse { job: Some(convert::job(snapshot, convert::Report::With)) }))
    }

    async fn watch_job(&self, request: Request<pb::WatchJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        let caller = caller(request.extensions());
        let id = convert::job_id(&request.into_inner().id)?;
        let watcher = self.service.watch_job(&caller, &id)?;
        Ok(Response::new(driven(|responses| async move {
            let news = |job| pb::WatchJobResponse { job: Some(convert::job(job, convert::Report::With)) };
            follow(watcher, &responses, news).await.map(|_| ())
        })))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let caller = caller(request.extensions());
        let id = convert::job_id(&request.into_inner().id)?;
        let snapshot = self.service.cancel_job(&caller, &id).await?;
        Ok(Response::new(pb::CancelJobResponse { job: Some(convert::job(snapshot, convert::Report::With)) }))
    }

    async fn pause_job(&self, request: Request<pb::PauseJobRequest>) -> Result<Response<pb::PauseJobResponse>, Status> {
        let caller = caller(request.extensions());
        let id = convert::job_id(&request.into_inner().id)?;
        let snapshot = self.service.pause_job(&caller, &id).await?;
        Ok(Response::new(pb::PauseJobResponse { job: Some(convert::job(snapshot, convert::Report::With)) }))
    }

    async fn resume_job(
        &self,
        request: Request<pb::ResumeJobRequest>,
    ) -> Result<Response<pb::ResumeJobResponse>, Status> {
        let caller = caller(request.extensions());
        let id = convert::job_id(&request.into_inner().id)?;
        let snapshot = self.service.resume_job(&caller, &id).await?;
        Ok(Response::new(pb::ResumeJobResponse { job: Some(convert::job(snapshot, convert::Report::With)) }))
    }
}

/// Sends the current job, then updates at a limited rate and at least every second, until the job has ended. Returns
/// its final state.
pub(super) async fn follow<T>(
    mut watcher: Watcher,
    responses: &ResponseSender<T>,
    news: impl Fn(JobSnapshot) -> T,
) -> Result<JobSnapshot, Ending> {
    loop {
        let Some(snapshot) = watcher.next().await else {
            return Err(ServiceError::ShuttingDown("the job continues when the server restarts").into());
        };
        let ended = snapshot.state.has_ended();
        responses.send(news(snapshot.clone())).await?;
        if ended {
            return Ok(snapshot);
        }
    }
}
