//! A hyper server that does nothing but answer from memory: what larder's own layers cost is the distance to it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::origin::{pattern, send_unpaced};

/// The child's main: listens on a port of the system's choice and says which.
pub fn serve() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        send_unpaced(&listener);
        println!("listening on {}", listener.local_addr().expect("a listener has an address"));
        let pattern = pattern();
        let bodies: HashMap<String, Bytes> = crate::hits::SIZES
            .iter()
            .map(|len| (format!("/{len}"), pattern.iter().copied().cycle().take(*len as usize).collect::<Bytes>()))
            .collect();
        let bodies = Arc::new(bodies);
        loop {
            let (stream, _) = listener.accept().await.expect("connections can be accepted");
            stream.set_nodelay(true).expect("TCP has the option");
            let bodies = bodies.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let body = bodies.get(request.uri().path()).cloned().unwrap_or_default();
                    async move { Ok::<_, Infallible>(Response::new(Full::new(body))) }
                });
                // A client that goes away is no news.
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
