//! Order of queued jobs.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn several_jobs_run_at_once_and_the_others_wait_their_turn() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.running_jobs_max = 2).await;
    let named = |name: &str| TrainSpec { model_name: name.parse().expect("a name"), ..spec() };
    let (a, b) = (server.finished(named("a"), "", 4).await, server.finished(named("a"), "", 4).await);
    server.until(&a, JobState::Running).await;
    server.until(&b, JobState::Running).await;
    let again = server.finished(named("a"), "", 4).await;
    let other = server.finished(named("b"), "", 4).await;
    let urgent = {
        let begun = server.jobs.begin(
            named("a").check().expect("valid"),
            None,
            Priority::try_from(3).expect("in range"),
            Owner::default(),
        );
        let Ok(Begun::Uploading { mut upload, snapshot, .. }) = begun.await else { panic!("a new job") };
        assert_eq!(snapshot.priority.number(), 3);
        upload.append(1, RowRole::Training, rows(4, 0)).await.expect("appends");
        upload.finish(1, 4).await.expect("finishes");
        snapshot.id
    };
    let running = || {
        let jobs = server.jobs.list();
        jobs.into_iter().filter(|job| job.state == JobState::Running).map(|job| job.id).collect::<Vec<_>>()
    };
    for (ends, starts) in [(&a, &urgent), (&b, &other), (&urgent, &again)] {
        assert_eq!(server.jobs.snapshot(starts).expect("known").state, JobState::Queued);
        server.jobs.cancel(ends).await.expect("runs");
        server.until(starts, JobState::Running).await;
        assert_eq!(running().len(), 2);
    }
    server.crash().await;
    let server = Server::open_with(folder.path(), until_stopped, |config| config.running_jobs_max = 2).await;
    for id in [&other, &again] {
        server.until(id, JobState::Running).await;
    }
    server.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_if_better_waits_for_jobs_of_the_same_name() {
    let folder = folder();
    let server = Server::open_with(folder.path(), until_stopped, |config| config.running_jobs_max = 2).await;
    let plain = server.finished(spec(), "", 4).await;
    server.until(&plain, JobState::Running).await;
    let name = spec().model_name;
    let base = Some(Base { name, selector: Selector::Latest, or_fresh: true });
    let better = server.finished(TrainSpec { base, publish_if_better: true, ..spec() }, "", 4).await;
    let other = TrainSpec { model_name: "other".parse().expect("a name"), ..spec() };
    let other = server.finished(other, "", 4).await;
    // It starts first, although it was queued later.
    server.until(&other, JobState::Running).await;
    assert_eq!(server.jobs.snapshot(&better).expect("known").state, JobState::Queued);
    server.jobs.cancel(&other).await.expect("runs");
    server.until(&other, JobState::Cancelled).await;
    assert_eq!(server.jobs.snapshot(&better).expect("known").state, JobState::Queued);
    server.jobs.cancel(&plain).await.expect("runs");
    server.until(&better, JobState::Running).await;
    server.crash().await;
}
