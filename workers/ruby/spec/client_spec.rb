# frozen_string_literal: true

require "open3"

# The client against a real server.
RSpec.describe TaskerCore::Client do
  before(:all) { @worker = WorkerProgram.new(Shared.server, "#{Shared.folder}/client-worker.log") }
  after(:all) { expect(@worker.terminate).to eq(0), File.read(@worker.log) }

  let(:client) { described_class.new(server.url, initiator: "the tests") }

  def refused
    yield
    raise "it was not refused"
  rescue TaskerCore::Errors::ClientError => e
    [e.code, e.status]
  end

  it "creates a task, waits for it and looks into it" do
    made = client.create_task("linear", namespace: "rb", context: { number: 4 }, tags: ["a"], priority: 7)
    expect([made.version, made.initiator, made.source_system]).to eq(["1.0.0", "the tests", "tasker-core"])
    expect([made.tags, made.priority, made["reason"]]).to eq([["a"], 7, "Task requested"])
    ended = client.wait_task(made.task_uuid)
    expect([ended.status, ended.completed_steps, ended.context]).to eq(["complete", 4, { "number" => 4 }])
    expect(client.get_task(made.task_uuid).completion_percentage).to eq(100)
    third = client.list_task_steps(made.task_uuid).find { |step| step.name == "third" }
    read = client.get_step(made.task_uuid, third.step_uuid)
    expect(read.results).to eq("numbers" => [5, 10], "attempt" => 1)
    attempt, = client.get_step_audit_history(made.task_uuid, third.step_uuid)
    expect([attempt.outcome, attempt.metadata]).to eq(["success", { "by" => "a class" }])
    expect(client.get_task_history(made.task_uuid).first.cause).to eq("started")
    expect(client.explain(made.task_uuid).steps).to eq([])
    expect { made.nonsense }.to raise_error(NoMethodError)
  end

  it "creates many at once, each on its own, and lists them page by page" do
    requests = Array.new(3) do |n|
      client.task_request("linear", namespace: "rb", context: { number: n }, tags: ["bulk"])
    end
    made = client.create_tasks([*requests, client.task_request("nothing", namespace: "rb")])
    expect(made.map(&:status)).to eq([201, 201, 201, 404])
    expect(made.last.error.code).to eq("TEMPLATE_NOT_FOUND")
    seen, cursor = [], nil
    loop do
      page = client.list_tasks(namespace: "rb", tag: "bulk", limit: 2, cursor: cursor)
      seen += page.tasks.map(&:task_uuid)
      cursor = page.pagination.next_cursor
      break unless page.pagination.has_next
    end
    expect(seen).to match_array(made.first(3).map { |each| each.task.task_uuid })
  end

  it "makes one task of one idempotency key" do
    tasks = Array.new(2) { client.create_task("single", namespace: "rb", idempotency_key: "once").task_uuid }
    expect(tasks.uniq.size).to eq(1)
  end

  it "ends a wait with its time, and cancels a cancelled task again" do
    task = client.create_task("orphan", namespace: "nobody").task_uuid
    expect(%w[complete cancelled]).not_to include(client.wait_task(task, timeout: 0.1).status)
    expect(client.explain(task).steps.first.code).to eq("no_live_worker")
    expect(Array.new(2) { client.cancel_task(task).status }).to eq(%w[cancelled cancelled])
    expect(client.wait_task(task).status).to eq("cancelled")
  end

  it "lists templates and says how the server is" do
    expect(client.list_templates(namespace: "rb").templates.map(&:name)).to include("linear", "single")
    expect(client.health_check.status).to eq("healthy")
  end

  it "raises what the server refuses, with its code" do
    expect(refused { client.create_task("nothing", namespace: "rb") }).to eq(["TEMPLATE_NOT_FOUND", 404])
    expect(refused { client.create_task("linear") }).to eq(["TEMPLATE_NOT_FOUND", 404]), "the namespace is `default`"
    elsewhere = -> { client.create_task("linear", namespace: "rb", version: "9.9.9") }
    expect(refused(&elsewhere)).to eq(["TEMPLATE_NOT_FOUND", 404])
    expect(refused { client.create_task("linear", namespace: "rb", prority: 1) }).to eq(["USAGE", nil])
    expect(refused { client.create_task("linear", context: { x: Float::NAN }) }).to eq(["USAGE", nil])
    expect(refused { client.get_task("no uuid") }).to eq(["USAGE", nil])
    expect(refused { described_class.new("http://127.0.0.1:1").health_check }).to eq(["UNREACHABLE", nil])
    expect(refused { described_class.new("ftp://x").health_check }).to eq(["USAGE", nil])
    expect { client.create_task("strict", namespace: "nobody", context: { number: "x" }) }
      .to(raise_error { |error| expect([error.status, error.details.to_s]).to match([422, /number/]) })
  end

  it "serves many threads" do
    said = Array.new(16) { Thread.new { client.health_check.status } }.map(&:value)
    expect(said).to eq(["healthy"] * 16)
  end

  it "finds its server by the configuration, and goes on in a fork" do
    program = <<~RUBY
      require "tasker_core"
      client = TaskerCore::Client.new
      say = -> { $stdout.syswrite(client.health_check.status + " ") }
      say.call
      Process.wait(fork(&say))
      say.call
      ENV["TASKER_ORCHESTRATION_URL"] = "ftp://x"
      begin
        TaskerCore::Client.new
      rescue TaskerCore::Errors::WorkerError => e
        print e.code
      end
    RUBY
    settings = environment(TASKER_ORCHESTRATION_URL: server.url)
    said, = Open3.capture2e(settings, RbConfig.ruby, "-w", "-Ilib", "-e", program)
    expect(said.split).to eq(%w[healthy healthy healthy bad_config])
  end

  it "hears signals while it waits, and asks the worker of its process where the server is" do
    program = <<~'RUBY'
      require "tasker_core"
      TaskerCore::StepHandler::Functional.step_handler("nobody.calls") { 1 }
      TaskerCore::Worker::Bootstrap.start!(variables: { "TASKER_ORCHESTRATION_URL" => ARGV[0] })
      client = TaskerCore::Client.new
      task = client.create_task("orphan", namespace: "nobody").task_uuid
      trap("USR1") { raise "a signal" }
      Thread.new { sleep 0.1; Process.kill("USR1", Process.pid) }
      begin
        client.wait_task(task)
      rescue RuntimeError => e
        puts e.message, client.cancel_task(task).status
      end
      TaskerCore::Worker::Bootstrap.stop!
    RUBY
    settings = environment(DATABASE_URL: server.database_url)
    said, = Open3.capture2(settings, RbConfig.ruby, "-w", "-Ilib", "-e", program, server.url)
    expect(said).to eq("a signal\ncancelled\n")
  end
end
