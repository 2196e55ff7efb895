//! Jobs: listing, watching, cancelling.

use halfhitch::rpc::pb;
use tonic::Code;

use crate::support::eventually::eventually;
use crate::support::{TestServer, question, sample, spec, temporary_store, train, whole_upload};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_newest_first() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    for name in ["first", "second", "third"] {
        train(&mut client, spec(name, &[5, 2]), &sample(40, 5, 1)).await.expect("trains");
    }
    let mut jobs = server.jobs().await;
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let page = jobs.list_jobs(pb::ListJobsRequest { page_size: 2, page_token }).await.expect("lists").into_inner();
        names.extend(page.jobs.iter().map(|job| job.model_name.clone()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["third", "second", "first"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_job_is_not_found() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut jobs = server.jobs().await;
    for id in ["", "x", "../..", "01890a5d-ac96-774b-bcce-b302099a8057"] {
        let id = id.to_owned();
        let status = jobs.get_job(pb::GetJobRequest { id: id.clone() }).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound, "{id}");
        let status = jobs.cancel_job(pb::CancelJobRequest { id: id.clone() }).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound, "{id}");
        let status = jobs.pause_job(pb::PauseJobRequest { id: id.clone() }).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound, "{id}");
        let status = jobs.resume_job(pb::ResumeJobRequest { id: id.clone() }).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound, "{id}");
        let status = jobs.watch_job(pb::WatchJobRequest { id: id.clone() }).await.expect_err("unknown");
        assert_eq!(status.code(), Code::NotFound, "{id}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_can_be_cancelled() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut endless = spec("endless", &[5, 2]);
    endless.epochs = 100_000;
    let questions = whole_upload(endless, &sample(500, 5, 1), 500);
    let mut answers =
        server.autoencoder().await.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    // Wait until it trains.
    let id = loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        if let Some(pb::train_response::Message::Progress(job)) = answer.message
            && job.state() == pb::JobState::Running
            && job.progress.as_ref().is_some_and(|progress| progress.step > 0)
        {
            break job.id;
        }
    };
    let mut jobs = server.jobs().await;
    let cancelled = jobs.cancel_job(pb::CancelJobRequest { id: id.clone() }).await.expect("runs").into_inner();
    assert_eq!(cancelled.job.expect("a job").state(), pb::JobState::Cancelled);
    let ending = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ending.code(), Code::FailedPrecondition);
    assert!(ending.message().contains("cancelled"), "{ending:?}");
    let again = jobs.cancel_job(pb::CancelJobRequest { id: id.clone() }).await.expect_err("has ended");
    assert_eq!(again.code(), Code::FailedPrecondition);
    let spooled = store.path().join("jobs").join(&id).join("rows.spool");
    assert!(!spooled.exists(), "the rows of a cancelled job are removed");
    server.stop().await;
}

/// Uploads rows for an endless job, waits until it trains, and returns its id.
async fn endless(server: &TestServer, name: &str) -> String {
    let endless = pb::TrainSpec { epochs: 100_000, ..spec(name, &[5, 2]) };
    let questions = whole_upload(endless, &sample(500, 5, 1), 500);
    let mut answers =
        server.autoencoder().await.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        if let Some(pb::train_response::Message::Progress(job)) = answer.message
            && job.progress.as_ref().is_some_and(|progress| progress.step > 0)
        {
            return job.id;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_survives_a_restart_and_can_be_resumed() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let id = endless(&server, "endless").await;
    let mut jobs = server.jobs().await;
    let paused = jobs.pause_job(pb::PauseJobRequest { id: id.clone() }).await.expect("runs").into_inner();
    assert_eq!(paused.job.expect("a job").state(), pb::JobState::Paused);
    let again = jobs.pause_job(pb::PauseJobRequest { id: id.clone() }).await.expect_err("is paused");
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("resume it first"), "{again:?}");
    server.stop().await;

    let server = TestServer::start(store.path()).await;
    let mut jobs = server.jobs().await;
    let after = jobs.get_job(pb::GetJobRequest { id: id.clone() }).await.expect("known").into_inner();
    assert_eq!(after.job.expect("a job").state(), pb::JobState::Paused);
    let resumed = jobs.resume_job(pb::ResumeJobRequest { id: id.clone() }).await.expect("is paused").into_inner();
    assert_eq!(resumed.job.expect("a job").state(), pb::JobState::Queued);
    let mut news = jobs.watch_job(pb::WatchJobRequest { id: id.clone() }).await.expect("known").into_inner();
    while news.message().await.expect("goes well").expect("news").job.expect("a job").progress.is_none() {}
    let again = jobs.resume_job(pb::ResumeJobRequest { id: id.clone() }).await.expect_err("runs");
    assert_eq!(again.code(), Code::FailedPrecondition);
    jobs.cancel_job(pb::CancelJobRequest { id }).await.expect("runs");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_jobs_train_at_the_same_time_and_each_can_be_stopped() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    // Wide enough that training uses its threads.
    let (first, second) = (endless(&server, "first").await, endless(&server, "second").await);
    let mut jobs = server.jobs().await;
    for id in [first, second] {
        let job = jobs.get_job(pb::GetJobRequest { id: id.clone() }).await.expect("known").into_inner().job;
        assert_eq!(job.expect("a job").state(), pb::JobState::Running);
        let paused = jobs.pause_job(pb::PauseJobRequest { id }).await.expect("runs").into_inner();
        assert_eq!(paused.job.expect("a job").state(), pb::JobState::Paused);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_priority_out_of_range_is_refused() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut client = server.autoencoder().await;
    let urgent = pb::TrainSpec { priority: 11, ..spec("urgent", &[5, 2]) };
    let error = train(&mut client, urgent, &sample(20, 5, 1)).await.expect_err("refused");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("-10 to 10"), "{error:?}");
    let urgent = pb::TrainSpec { priority: 10, ..spec("urgent", &[5, 2]) };
    train(&mut client, urgent, &sample(20, 5, 1)).await.expect("trains");
    let jobs = server.jobs().await.list_jobs(pb::ListJobsRequest::default()).await.expect("lists").into_inner().jobs;
    assert_eq!(jobs[0].priority, 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_can_be_cancelled() {
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let first = question(pb::train_request::Message::Spec(spec("waits", &[5, 2])));
    let questions = tokio_stream::StreamExt::chain(tokio_stream::iter([first]), tokio_stream::pending());
    let mut answers = server.autoencoder().await.train(questions).await.expect("accepted").into_inner();
    let accepted = answers.message().await.expect("goes well").and_then(|answer| answer.message);
    let Some(pb::train_response::Message::Accepted(accepted)) = accepted else { panic!("{accepted:?}") };
    let job = accepted.job.expect("a job");
    assert_eq!(job.state(), pb::JobState::Uploading);
    assert!(job.upload_expire_time.is_some());
    let request = pb::CancelJobRequest { id: job.id };
    let cancelled = server.jobs().await.cancel_job(request).await.expect("uploading").into_inner();
    assert_eq!(cancelled.job.expect("a job").state(), pb::JobState::Cancelled);
    let ending = answers.message().await.expect_err("told");
    assert_eq!(ending.code(), Code::FailedPrecondition, "{ending:?}");
    server.stop().await;
}

/// A tiny job changes thousands of times a second. The number of its watchers is limited, and all receive its end.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_above_the_limit_get_a_retry_delay() {
    use tonic_types::StatusExt;
    let store = temporary_store();
    let server = TestServer::start(store.path()).await;
    let mut endless = spec("endless", &[5, 2]);
    endless.epochs = 100_000;
    let questions = whole_upload(endless, &sample(5_000, 5, 1), 500);
    let mut answers =
        server.autoencoder().await.train(tokio_stream::iter(questions)).await.expect("accepted").into_inner();
    let id = loop {
        let answer = answers.message().await.expect("goes well").expect("an answer");
        if let Some(pb::train_response::Message::Progress(job)) = answer.message {
            break job.id;
        }
    };
    let mut jobs = server.jobs().await;
    let mut watchers = Vec::new();
    let refused = loop {
        match jobs.watch_job(pb::WatchJobRequest { id: id.clone() }).await {
            Ok(news) => watchers.push(news.into_inner()),
            Err(status) => break status,
        }
        assert!(watchers.len() < 1000, "there is no end to watchers");
    };
    assert_eq!((watchers.len(), refused.code()), (64, Code::ResourceExhausted), "{refused:?}");
    assert!(refused.get_error_details().retry_info().is_some(), "{refused:?}");
    // A watcher that leaves frees its slot.
    drop(watchers.pop());
    let watch = async || jobs.watch_job(pb::WatchJobRequest { id: id.clone() }).await.map(drop);
    eventually("the slot of a watcher is free", watch).await;
    // On a separate connection: unread updates fill the watchers' connection.
    server.jobs().await.cancel_job(pb::CancelJobRequest { id }).await.expect("runs");
    for mut news in watchers {
        let mut last = None;
        while let Some(message) = news.message().await.expect("goes well") {
            last = message.job;
        }
        assert_eq!(last.expect("news").state(), pb::JobState::Cancelled, "the last state is always told");
    }
    server.stop().await;
}
