# frozen_string_literal: true

# Domain events: published by publishers in Ruby, heard by subscribers in Ruby.
RSpec.describe TaskerCore::DomainEvents do
  let(:log) { "#{scratch}/log" }
  let(:events) { TaskerCore::DomainEvents }

  describe "with a worker" do
    before(:all) { @worker = WorkerProgram.new(Shared.server, "#{Shared.folder}/events-worker.log") }
    after(:all) { expect(@worker.terminate).to eq(0), File.read(@worker.log) }

    # Runs a task whose events tell of a log; answers its lines, once there are so many.
    def told(count, **context)
      steps = server.run("shop", { log: log, **context })
      lines = eventually("all is heard") do
        read = File.exist?(log) ? File.readlines(log, chomp: true) : []
        read if read.size >= count
      end
      expect(lines.size).to eq(count)
      said, published = lines.partition { |line| line.start_with?("{") }
      [steps, said.map { |line| JSON.parse(line) }.sort_by { |event| event["name"] }, published.sort]
    end

    it "publishes what a publisher says, and subscribers hear it once" do
      steps, heard, published = told(5)
      expect(steps["status"]).to eq("complete")
      expect(published).to eq(["published order.paid", "published order.seen"])
      expect(heard.map { |event| event["name"] }).to eq(%w[order.paid order.seen order.tried])
      expect(heard.first).to eq("name" => "order.paid", "payload" => { "amount" => 5, "log" => log }, "by" => "receipt")
      expect(heard.last["payload"]).to include("card" => "4711"), "it has no publisher"
    end

    it "asks each publisher after the attempts that its condition names" do
      steps, heard, = told(3, do: "fail")
      expect(steps["status"]).to eq("blocked_by_failures")
      expect(heard.map { |event| event["name"] }).to eq(%w[order.failed order.given_up order.tried])
      why = { "why" => "broke", "code" => "E1", "attempt" => 1, "log" => log }
      expect(heard.first["payload"]).to eq(why)
    end

    it "asks it after each attempt" do
      steps, heard, = told(7, do: "later")
      expect(steps["status"]).to eq("complete")
      expect(heard.map { |event| event["name"] }).to eq(%w[order.failed order.paid order.seen order.tried order.tried])
    end

    %w[raise unsayable exit skip].each do |what|
      it "publishes nothing where a publisher is not able or willing, and the step is complete: #{what}" do
        steps, heard, = told(1, do: what)
        expect([steps["status"], steps["pay"]["results"]["amount"]]).to eq(["complete", 5])
        expect(server.audit(steps["pay"]).size).to eq(1)
        expect(heard.map { |event| event["name"] }).to eq(%w[order.tried])
        next if %w[skip exit].include?(what)

        said = File.read(@worker.log)
        expect(said).to include("the publisher receipt of order.paid failed").and include("an event is not published")
      end
    end
  end

  # Publishes loud results only.
  class Quiet < TaskerCore::DomainEvents::BasePublisher
    publisher_name "quiet"

    def should_publish?(ctx)
      ctx.result == { "loud" => true }
    end
  end

  it "tries publishers alone" do
    ctx = events::StepEventContext.from_step_context(TaskerCore::Testing.make_context, { "loud" => false })
    expect(Quiet.new.publish(ctx)).to be(false)
    ctx.result["loud"] = true
    expect(Quiet.new.publish(ctx, "order.paid")).to be(true)
    expect(events::DefaultPublisher.new.transform_payload(ctx)).to eq("loud" => true)
  end

  it "takes each publisher's name once, and none when frozen" do
    registry = events::PublisherRegistry.new
    2.times { registry.register(Quiet.new) }
    expect(registry.names).to eq(["quiet"])
    expect(registry.get_or_default("nobody")).to be_a(events::DefaultPublisher)
    other = Class.new(events::BasePublisher) { publisher_name "quiet" }
    expect { registry.register(other.new) }.to raise_error(TaskerCore::ConfigurationError)
    registry.validate_required(["quiet"])
    expect { registry.validate_required(%w[quiet nobody]) }.to raise_error(TaskerCore::ConfigurationError, /`nobody`/)
    registry.freeze!
    expect { registry.register(events::DefaultPublisher.new) }.to raise_error(TaskerCore::ConfigurationError)
  end

  def event(name)
    ids = %w[task_uuid step_uuid step_name namespace correlation_id].to_h { |key| [key, "x"] }
    { "name" => name, "payload" => 1, **ids }
  end

  # A subscriber to these globs that writes down what it hears, and then does what the block does.
  def ear(*globs, &also)
    heard = []
    subscriber = Class.new(events::BaseSubscriber) do
      subscribes_to(*globs)
      define_method(:handle) do |event|
        heard << event.event_name
        also&.call(event)
      end
    end
    [subscriber, heard]
  end

  it "tells subscribers in order, counts what they raise, and ends with what waits" do
    subscriber, heard = ear("a*", "ab", "*") { |event| raise Exception, "ab" if event.event_name == "ab" }
    registry = events::SubscriberRegistry.new
    made = registry.register(subscriber)
    expect([registry.register(subscriber), made.matches?("anything")]).to eq([made, true])
    said = logged do
      registry.start_all
      %w[ab b ab a].each do |name|
        registry.globs.each { |glob| registry.tell(glob, event(name)) if events.matches?(glob, name) }
      end
      registry.stop_all
    end
    expect(heard).to eq(%w[ab b ab a]), "once each, although up to three globs match"
    expect(registry.stats).to eq(subscribers: 1, handled: 2, failed: 2, dropped: 0)
    expect(said).to include("failed at ab: Exception: ab")
  end

  it "drops what comes while 1,024 wait" do
    gate = Thread::Queue.new
    subscriber, heard = ear("*") { gate.pop }
    registry = events::SubscriberRegistry.new
    registry.register(subscriber)
    registry.start_all
    registry.tell("*", event("first"))
    eventually("it is at the first") { heard.size == 1 }
    1_030.times { registry.tell("*", event("more")) }
    expect(registry.stats).to include(dropped: 6)
    gate.close
    registry.stop_all
    expect(heard.size).to eq(1_025)
  end

  it "refuses a subscriber that the running worker knows nothing of" do
    registry = events::SubscriberRegistry.new
    registry.start_all
    subscriber, = ear("*")
    expect { registry.register(subscriber) }.to raise_error(TaskerCore::ConfigurationError)
    registry.stop_all
    made = registry.register(subscriber)
    registry.unregister(made)
    expect(registry.globs).to eq([])
  end

  [["order.*", "order.a.b", true], ["order.?", "order.", false], ["[ab]", "a", false], ["*", "", true],
   ["a", "a\n", false]].each do |glob, name, holds|
    it "matches whole names as the worker does: #{glob} and #{name.inspect}" do
      expect(events.matches?(glob, name)).to be(holds)
    end
  end
end
