# frozen_string_literal: true

require_relative "handlers/flows"

# Real workflows with handlers in Ruby.
RSpec.describe "workflows" do
  before(:all) { @worker = WorkerProgram.new(Shared.server, "#{Shared.folder}/worker.log") }
  after(:all) { expect(@worker.terminate).to eq(0), File.read(@worker.log) }

  let(:log) { "#{scratch}/log" }

  it "hands results on from step to step" do
    steps = server.run("linear", { number: 4 })
    expect(steps["status"]).to eq("complete")
    expect(steps.values_at("first", "second").map { |step| step["results"] }).to eq([{ "number" => 5 }, { "number" => 10 }])
    expect(steps["third"]["results"]).to eq("numbers" => [5, 10], "attempt" => 1)
    expect(steps["undo"]["results"]).to eq("undone" => [5, 10]), "another method of the same handler"
    expect(server.audit(steps["third"]).first["metadata"]).to eq("by" => "a class")
  end

  { 5 => "small", 500 => "large", 0 => nil }.each do |amount, branch|
    it "creates what a decision of #{amount} names and no more" do
      steps = server.run("decision", { amount: amount })
      expect(steps["status"]).to eq("complete")
      expect(%w[small large].select { |name| steps.key?(name) }).to eq([branch].compact)
      expect(steps["end"]["results"]).to include(branch) if branch
    end
  end

  it "makes batches, works on them in runs and brings them together" do
    steps = server.run("batch", { items: 70, log: log })
    expect(steps["status"]).to eq("complete")
    expect(steps["merge"]["results"])
      .to eq("total" => 70.times.sum, "worker_count" => 3, "scenario" => "with_batches")
    runs = [0, 10, 20].map { |at| "001 1 #{at}" } + [30, 40, 50].map { |at| "002 1 #{at}" } + ["003 1 60"]
    expect(File.readlines(log, chomp: true).sort).to eq(runs)
  end

  it "runs one worker that has nothing to do for an empty split" do
    steps = server.run("batch", { items: 0 })
    expect(steps["status"]).to eq("complete")
    expect(steps["work_000"]["results"]).to eq("no_op" => true, "items_processed" => 0)
    expect(steps["merge"]["results"]).to eq("total" => 0, "worker_count" => 0, "scenario" => "no_batches")
  end

  it "tries again after the time that the error asks for" do
    steps = server.run("single", { do: "later" })
    expect(steps["only"]["results"]["attempt"]).to eq(2)
    first, second = server.audit(steps["only"])
    expect(first["error"]).to include("error_type" => "retryable_error", "retryable" => true)
    waited = Time.parse(second["started_at"]) - Time.parse(first["finished_at"])
    expect(waited).to be >= 1.5 * 0.8, "jitter may take a part of it"
  end

  it "ends a step for good where its error is permanent" do
    steps = server.run("single", { do: "never" })
    expect(steps["status"]).to eq("blocked_by_failures")
    attempt, = server.audit(steps["only"])
    expect(attempt["error"]).to include("error_type" => "validation_error", "error_code" => "E7", "message" => "never")
    expect(attempt["metadata"]).to eq("exception" => "TaskerCore::Errors::ValidationError", "field" => "amount")
  end

  it "tries a handler again that takes too long, and tells the first one" do
    steps = server.run("hasty", { do: "slow", log: log })
    expect(steps["status"]).to eq("complete")
    first, second = server.audit(steps["blocking"])
    expect([first["error"]["error_type"], second["outcome"]]).to eq(%w[timeout success])
    eventually("the thread comes back") { File.read(log).include?("ended true") }
  end

  it "lets a handler see that its task was cancelled" do
    task = server.create("single", { do: "wait for cancel", log: log })
    eventually("the handler runs") { File.exist?(log) && File.read(log).include?("begun") }
    server.call("DELETE", "/v1/tasks/#{task}")
    eventually("the handler hears of it") { File.read(log).include?("cancelled true false") }
    expect(server.wait(task)["status"]).to eq("cancelled")
  end

  it "brings odd payloads back as they went" do
    sent = {
      "emoji" => "\u{1f600} é ü \u202e \\ \" \n \u2028", "integers" => [0, -(2**53), 2**53],
      "floats" => [1.5, 1e308, 5e-324, -0.5, 0.1], "" => [nil, true, false, [], {}],
      "deep" => 60.times.reduce("bottom") { |value, _| [value] }, "amount" => 1
    }
    expect(server.run("decision", sent)["small"]["results"]).to eq(sent)
  end

  Flows::UNSAYABLE.each_key do |what|
    it "fails a result for good, with its place, that JSON can't carry: #{what}" do
      steps = server.run("single", { do: what })
      attempt, = server.audit(steps["only"])
      expect(attempt["error"]).to include("error_type" => "result_not_serializable", "retryable" => false)
      expect(attempt["error"]["message"]).to include("/x") unless %w[circular large endless].include?(what)
    end
  end

  Flows::ODD.each_key do |what|
    it "makes a failed attempt of whatever happens in a handler, and lives on: #{what}" do
      steps = server.run("single", { odd: what })
      first, = server.audit(steps["only"])
      expect(first["outcome"]).to eq("failure")
      if what == "basic"
        expect(first["error"]["error_type"]).to eq("result_not_serializable")
      else
        expect(first["error"]["error_type"]).to eq("handler_error")
        expect(steps["only"]["results"]).to eq("pid" => @worker.pid, "attempt" => 2)
      end
    end
  end

  it "runs many handlers at once" do
    count = 40
    tasks = Array.new(count) { server.create("single", { do: "meet", folder: scratch, count: count }) }
    expect(tasks.map { |task| server.wait(task)["status"] }.uniq).to eq(["complete"])
  end

  it "lets handlers fork" do
    expect(server.run("single", { do: "fork" })["only"]["results"]).to eq("child" => 4)
    gone_on = server.run("single", { do: "fork and go on" })
    expect(gone_on["only"]["results"]).to eq("child" => 1), "the child has no worker to report to"
    expect(server.audit(gone_on["only"]).size).to eq(1)
  end

  it "survives a collector that runs at every allocation and moves everything" do
    values = server.run("single", { do: "rubbish" })["only"]["results"]["values"]
    expect(values.last).to eq("19" => ["x" * 19, 19, 19.0])
  end
end
